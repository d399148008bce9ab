// Package direct answers small, plain HTTP/1.1 requests where they are read, without net/http's part of it.
//
// net/http's server does for each request what only few requests need: it starts a goroutine that watches for the
// client to go away and stops it again, makes a buffered writer, sets five deadlines, and sorts and renders headers
// twice. For a read from memory that is half of the CPU. So a [Server] stands in the Read of each connection, at the
// bottom of net/http's own server: a request that is there whole, in one piece and of the plainest form, it gives to
// the handler itself, and answers; anything else it hands up as it came, and net/http does what it always does. That
// goes for what is large, chunked, pipelined, announced (Expect), closing, malformed, or only half there.
//
// What it takes to be a request, net/http would have read in the same way (FuzzParse compares them). It knows where
// a request begins only while it could follow where the one before ended; when it has lost that, net/http has the
// connection to itself until it is closed.
package direct
