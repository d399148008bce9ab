// Package client is the Go client of Dunlin's HTTP interface.
//
//	c, err := client.New([]string{"http://127.0.0.1:8001", "http://127.0.0.1:8002"}, client.Options{})
//	carts := c.Bucket("carts")
//	_, err = carts.Put(ctx, "alice", []byte("3 apples"), client.Write{})
//	obj, err := carts.Get(ctx, "alice", client.Read{R: "quorum"})
//	value, err := obj.Value() // ErrSiblings when concurrent writes both survived
//
// To replace what was read, send its context back:
//
//	_, err = carts.Put(ctx, "alice", merged, client.Write{Context: obj.Context})
//
// Any node answers any request. The client spreads requests over its endpoints
// and repeats those that failed for a passing reason (503, 504, a broken
// connection) at the next one until the context ends or the tries are used up.
// A write is only repeated under an Idempotency-Key, which the client makes
// once per Put, Create and Delete, so that a repetition has no second effect.
//
// The package knows HTTP only: nothing of rings, clocks or membership, and a
// context is opaque to it. A Client is safe for concurrent use and owns no
// goroutine.
package client
