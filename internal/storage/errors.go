package storage

import "errors"

// Errors of reading and writing keys.
var (
	// ErrCorrupt: the key's record is there and cannot be read. It says nothing about what the key held.
	ErrCorrupt = errors.New("record is corrupt")
	// ErrIncomplete: the record replaces a corrupt one and may lack what that held. This node must not mint on it.
	ErrIncomplete = errors.New("record is incomplete")
	// ErrKey: the partition, bucket or key is out of bounds.
	ErrKey = errors.New("bad key")
	// ErrFull: the disk has too little free space for this write. Certainly not stored.
	ErrFull = errors.New("disk is full")
	// ErrMinFree: so much is to stay free that nothing could ever be stored.
	ErrMinFree = errors.New("min-free is too large for the disk")
	// ErrOverloaded: the write queue is full. Certainly not stored.
	ErrOverloaded = errors.New("write queue is full")
	// ErrCommit: the write was applied and its commit failed. It may or may not be stored.
	ErrCommit = errors.New("commit failed, the write may or may not be stored")
	// ErrRead: badger could not read. For a write: certainly not stored.
	ErrRead = errors.New("storage cannot read")
	// ErrUnhealthy: the store refuses writes until it is opened anew, because commits failed. Certainly not stored.
	ErrUnhealthy = errors.New("storage refuses writes after failed commits")
	// ErrClosed: the store is closed. Certainly not stored.
	ErrClosed = errors.New("storage is closed")
	// ErrStaleRound: the partition is in a later reap round than what was given. Certainly not stored; whoever sent
	// an object reads its own store again.
	ErrStaleRound = errors.New("stale reap round")
	// ErrNotEntered: the store has not entered the reap round. Certainly nothing was done.
	ErrNotEntered = errors.New("reap round not entered")
	// ErrDropping: the partition is being dropped from this node. Certainly not stored, and nothing can be read.
	ErrDropping = errors.New("the partition is being dropped")
	// ErrHintsFull: the hints for the target take as much room as they may. Certainly not stored.
	ErrHintsFull = errors.New("too many hints for the target")
	// ErrTooLarge: an object, or a value given to PutMeta, is larger than a record can be. Certainly not stored.
	ErrTooLarge = errors.New("too large to store")
)

// Errors of opening a data directory. The text around them is one line that names what to change.
var (
	// ErrDirectory: the directory, or a file in it, cannot be read or written.
	ErrDirectory = errors.New("data directory cannot be used")
	// ErrLocked: another process uses the directory.
	ErrLocked = errors.New("data directory is in use by another process")
	// ErrOtherCluster: the directory belongs to a node of another cluster.
	ErrOtherCluster = errors.New("data directory belongs to another cluster")
	// ErrFormat: a newer release wrote the directory.
	ErrFormat = errors.New("data directory has a newer format")
	// ErrDamaged: something that must be in the directory is missing or cannot be read.
	ErrDamaged = errors.New("data directory is damaged")
)
