package torture

import (
	"fmt"
	"time"
)

// weather breaks the network between random nodes, and heals it some seconds later.
func (f *faults) weather() {
	kinds := []func(p []int) time.Duration{f.halves, f.oneWay, f.isolated, f.flapping}
	if f.canLose {
		kinds = append(kinds, f.lossy)
	}
	if f.canDelay {
		kinds = append(kinds, f.slow)
	}
	nodes := f.nets.Perm(len(f.members))
	length := kinds[f.nets.IntN(len(kinds))](nodes)
	f.in(length, func() {
		f.must(f.lab.Heal())
		f.note("the network is whole")
		f.in(f.between(f.nets, 500, 4000), f.weather)
	})
}

// These are counted as cuts; the other troubles of the network let some packets through everywhere.
var cutKinds = []string{"split", "one-way cut", "isolated node", "flapping link"}

// bad tells of a kind of weather, and draws its length: some are long enough for each side to give the other up.
func (f *faults) bad(kind, format string, args ...any) time.Duration {
	length := f.between(f.nets, 1000, 11000)
	f.count(kind)
	f.note("%s for %v: %s", kind, length.Round(time.Millisecond), fmt.Sprintf(format, args...))
	return length
}

func (f *faults) names(nodes []int) (out []string) {
	for _, i := range nodes {
		out = append(out, f.members[i].Name)
	}
	return out
}

func (f *faults) halves(p []int) time.Duration {
	k := 1 + f.nets.IntN(len(p)/2)
	f.must(f.lab.Split(p[:k], p[k:]))
	return f.bad("split", "%v from %v", f.names(p[:k]), f.names(p[k:]))
}

// oneWay drops what goes from some nodes to one, and not what it answers.
func (f *faults) oneWay(p []int) time.Duration {
	k := 1 + f.nets.IntN(len(p)-1)
	for _, i := range p[1 : 1+k] {
		f.must(f.lab.CutOneWay(i, p[0]))
	}
	return f.bad("one-way cut", "from %v to %s", f.names(p[1:1+k]), f.members[p[0]].Name)
}

func (f *faults) isolated(p []int) time.Duration {
	f.must(f.lab.Split(p[:1], p[1:]))
	return f.bad("isolated node", "%s", f.members[p[0]].Name)
}

// flapping cuts a node off again and again.
func (f *faults) flapping(p []int) time.Duration {
	length := f.bad("flapping link", "of %s", f.members[p[0]].Name)
	end := time.Now().Add(length)
	var flap func()
	cut := false
	flap = func() {
		if time.Now().After(end) {
			return // the network is healed now
		}
		if cut = !cut; cut {
			f.must(f.lab.Split(p[:1], p[1:]))
		} else {
			f.must(f.lab.Heal())
		}
		f.in(f.between(f.nets, 300, 1200), flap)
	}
	flap()
	return length
}

func (f *faults) lossy([]int) time.Duration {
	percent := 1 + f.nets.IntN(15)
	f.must(f.lab.Lose(percent))
	return f.bad("loss", "%d %% of all packets", percent)
}

func (f *faults) slow([]int) time.Duration {
	delay := time.Duration(10+f.nets.IntN(190)) * time.Millisecond
	f.must(f.lab.Delay(delay))
	return f.bad("delay", "%v a packet", delay)
}

func (r *run) cuts() (n int) {
	for _, kind := range cutKinds {
		n += r.counts[kind]
	}
	return n
}
