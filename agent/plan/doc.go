// Package plan computes what to do; it does nothing.
//
// Order gives the steps from what is observed to a goal. Reconciliation,
// replay and revert are this one function with three goals (desired, After,
// Before), and a dry run prints it. The order follows from dependencies between
// kinds and never from the reverse of a list of steps.
//
// Cover says what one operation must hold: a function whose driver changes
// takes its netdev's attributes with it, so the operation covers those too.
//
// # Caveats
//
// Steps foresee what the kernel gives a netdev that comes back (Spec.Fresh).
// Of some kinds only the device knows it (drivers.Default), and a step is foreseen
// whether or not it will be needed. Whoever applies them observes again after each one and plans anew, so a
// device with other defaults costs a step more or less and nothing else.
package plan
