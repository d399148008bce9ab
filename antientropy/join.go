package antientropy

import "context"

// localList reads a span of this node's own keys, page by page.
type localList struct {
	local Replica
	query KeyQuery
	page  []KeyEntry
	done  bool // no page is left in the store
	read  int  // keys read
	see   func(*KeyEntry)
}

// localPage is how many keys are read at once.
const localPage = 1024

func newLocalList(local Replica, sp span, see func(*KeyEntry)) *localList {
	return &localList{local: local, see: see, query: KeyQuery{
		Partition: sp.partition, Leaf: sp.leaf, After: sp.after, Limit: localPage,
	}}
}

// peek returns the next key without taking it, nil after the last.
func (l *localList) peek(ctx context.Context) (*KeyEntry, error) {
	for len(l.page) == 0 && !l.done {
		page, more, err := l.local.Keys(ctx, l.query)
		if err != nil {
			return nil, err
		}
		l.page, l.done = page, !more
		l.read += len(page)
		for i := range page {
			l.see(&page[i])
		}
		if n := len(page); n > 0 {
			l.query.After = Cursor{page[n-1].Bucket, page[n-1].Key}
		}
	}
	if len(l.page) == 0 {
		return nil, nil
	}
	return &l.page[0], nil
}

func (l *localList) take() { l.page = l.page[1:] }

// join walks this node's list and one page of the peer's together, in order, and calls each for every key that either
// holds: nil stands for a side that lacks it. more says that the peer's list goes on: then own keys after its last one
// are left for the next page.
func join(ctx context.Context, own *localList, remote list, each func(mine, theirs *KeyEntry)) error {
	for i := 0; ; {
		mine, err := own.peek(ctx)
		if err != nil {
			return err
		}
		order := 0
		switch {
		case i == len(remote.entries) && (remote.more || mine == nil):
			return nil
		case i == len(remote.entries):
			order = -1
		case mine == nil:
			order = 1
		default:
			theirs := &remote.entries[i]
			order = Cursor{mine.Bucket, mine.Key}.compare(Cursor{theirs.Bucket, theirs.Key})
		}
		switch {
		case order < 0:
			each(mine, nil)
			own.take()
		case order > 0:
			each(nil, &remote.entries[i])
			i++
		default:
			each(mine, &remote.entries[i])
			own.take()
			i++
		}
	}
}
