// Command churn holds the product's claim against a real kernel: whatever was
// asked of a node, in whatever order, and however often the agent was killed
// meanwhile, agent release --all restores what was there before.
//
// It takes a picture of every network function with ip, ethtool and sysfs, not
// with the agent: drivers, overrides, VFs and what is kept for them, names, MAC
// addresses, MTU, links, alternative names, features, rings, channels, and the
// modules that are loaded. Then it changes the desired state at random, kills and
// restarts the agent, releases everything, and compares.
//
// make churn runs it for ten minutes with each of five seeds.
package main
