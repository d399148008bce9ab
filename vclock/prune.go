package vclock

// Pruned returns the object without births that nothing in it needs: those that are no sibling's, where the same node has
// begun a later one. Every start of a node begins new births, so without this a key that is written for years would come
// to its limit of entries. It depends on the object alone, so that replicas which hold the same prune the same; o is
// returned as it is if there is nothing to prune.
//
// A pruned object covers less than what it was made of. Whoever still holds a value that only the pruned births cover
// could bring it back, so this is only for who has proof that nobody does: see the reaper.
func (o Object) Pruned() Object {
	n := o.prunable()
	if n == 0 {
		return o
	}
	kept := make(VersionVector, 0, len(o.Context)-n)
	for i, d := range o.Context {
		if !o.spare(i) {
			kept = append(kept, d)
		}
	}
	o.Context = kept
	return o
}

// prunable is how many entries Pruned leaves out.
func (o Object) prunable() (n int) {
	for i := range o.Context {
		if o.spare(i) {
			n++
		}
	}
	return n
}

// spare reports whether nothing in the object needs an entry of its context. Entries are sorted by node and birth.
func (o Object) spare(i int) bool {
	a := o.Context[i].Actor
	if i+1 == len(o.Context) || o.Context[i+1].Actor.Node != a.Node {
		return false
	}
	for j := range o.Siblings {
		if o.Siblings[j].Dot.Actor == a {
			return false
		}
	}
	return true
}
