// Package admission decides how many operations of clients a node works on at once. It knows nothing of what they are:
// who begins one asks to enter, and leaves at its end.
//
// A fixed number is no good answer. One that a large machine needs lets a small one queue for seconds, and everybody
// waits in that queue, those that are refused as well: their requests have to be read. So the number follows what tells
// whether the processors keep up: how long goroutines that could run wait until they do (the runtime counts that). See
// Limit.
//
// Invariants: between least and max; whoever entered leaves once. It owns no goroutine and no timer: an idle node does
// nothing.
package admission
