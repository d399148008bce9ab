package transport

import "sync/atomic"

// maxIdleWorkers bounds the goroutines that wait for a request to serve.
const maxIdleWorkers = 32

// workers serve requests, each on a goroutine of its own. One that is done waits for another request: a new goroutine
// has a small stack, and to make it as large as a read of the disk needs took a fortieth of the CPU of such reads.
type workers struct {
	jobs chan *job
	idle atomic.Int64 // about how many wait
	stop <-chan struct{}
}

func newWorkers(stop <-chan struct{}) *workers {
	return &workers{jobs: make(chan *job), stop: stop}
}

// serve does not wait for it to be served.
func (w *workers) serve(j *job) {
	select {
	case w.jobs <- j:
	default:
		go w.run(j)
	}
}

func (w *workers) run(next *job) {
	for {
		next.in.serve(next)
		next = nil // what it held is not kept while this waits
		if w.idle.Add(1) > maxIdleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case next = <-w.jobs:
			w.idle.Add(-1)
		case <-w.stop:
			return
		}
	}
}
