// Package admission decides how many operations of clients a node works on at once. It knows nothing of what they are:
// who begins one asks to enter, and leaves at its end.
//
// A fixed number is no good answer. One that a large machine needs lets a small one queue for seconds, and everybody
// waits in that queue, those that are refused as well: their requests have to be read. So the number follows what tells
// whether the processors keep up: how long what has come waits until it is looked at. See Limit and Backlog.
//
// Invariants: between least and max; whoever entered leaves once. A Limit owns no goroutine and no timer, and a Backlog
// a goroutine that waits for what it is asked: an idle node does nothing.
package admission
