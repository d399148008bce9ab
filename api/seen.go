package api

import (
	"slices"

	"github.com/dunlindb/dunlin/vclock"
)

// unshown is for an answer without the values: a context that covered a sibling which this client has neither
// read nor written would let its next write replace what nobody has seen.
func (res *written) unshown(wr write, id vclock.WriteID) {
	context, all := seenBy(res.shown, wr.context, id)
	res.token = wr.tokenOf(context)
	if !all {
		res.etag = "" // it names the unseen ones, too
	}
}

// seenBy returns the context for a client that has read what before covers and made the write of that id, and
// whether this is all there is to see. A vector cannot cover a write without the earlier ones of its actor: where one
// of those is unseen, the write itself stays uncovered, and the client's next one stands beside it.
func seenBy(s shown, before vclock.Context, id vclock.WriteID) (context vclock.Context, all bool) {
	isOwn := func(v vclock.Sibling) bool { return v.ID == id }
	var unseen []vclock.Sibling
	for _, v := range s.Live {
		if !isOwn(v) && !before.Vector.Covers(v.Dot) {
			unseen = append(unseen, v)
		}
	}
	if len(unseen) == 0 {
		return s.Context, true
	}
	context = before
	for _, own := range slices.Concat(s.Live, s.Deleted) {
		with := context.Vector.With(own.Dot)
		if !isOwn(own) || slices.ContainsFunc(unseen, func(v vclock.Sibling) bool { return with.Covers(v.Dot) }) {
			continue
		}
		context.Vector, context.Stamp = with, max(context.Stamp, own.Stamp)
		if at, found := slices.BinarySearchFunc(context.IDs, id, vclock.WriteID.Compare); id.Client && !found {
			context.IDs = slices.Insert(slices.Clone(context.IDs), at, id)
		}
	}
	return context, false
}
