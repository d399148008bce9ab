// Package e2e holds the tests that run the built program: real processes that are killed, whole clusters that come
// back, containers, and the main job on real data. It has no code of its own.
//
// A test that needs something this machine may lack skips with a message that says what is missing. Where
// DUNLIN_REQUIRE names the need (a comma list of heavy, apt, docker, curl, netns, cgroup), lacking it is a failure instead.
package e2e
