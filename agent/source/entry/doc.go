// Package entry reads entries of a desired state: which function, and what is
// asked of it. Document reads a YAML file of them, List a list as an object of an
// API has it, in JSON. Both have the same fields, with the same rules, and both
// are judged as a whole: one problem anywhere, and nothing is used. Every problem
// is named at once, with its place and what to write instead.
package entry
