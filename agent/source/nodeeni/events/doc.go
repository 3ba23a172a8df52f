// Package events tells people who look at an object of a Kubernetes API what
// became of it, by events of events.k8s.io/v1.
//
// Record never waits. What is the same again, of the same object, is one event
// whose series counts: the first time makes the event, the others patch it, ever
// more seldom while they go on. What all of them cost is bounded by a token
// bucket, and what is kept while the API is away by number and by age: an event
// is news, and nothing depends on it.
package events
