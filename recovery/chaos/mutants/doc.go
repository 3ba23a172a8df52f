// Command mutants breaks the journal, the plan, the engine and recovery in one
// place at a time, and wants their tests to notice. A condition is turned
// around, a boundary moved by one, a statement left out, an error lost.
//
// All mutants of a package are compiled into one test binary, which has one of
// them switched on at a time: a build costs more than most of the tests.
//
// make mutants runs it. What survives is printed with its place; those that
// nothing can notice are listed, with the reason, in equivalent.txt.
package main
