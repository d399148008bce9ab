# What is worth a name. Everything that must hold before a change lands is in .ci/run.

TORTURE ?= 10m
SIM ?= forever
MUTANTS ?= all

.PHONY: build test ci sim mutants torture bench pgo baseline benchstat

# With the profile of a load: a little less CPU, and a compilation of everything for it.
build:
	go build -pgo cmd/dunlin/load.pgo -o dunlin ./cmd/dunlin

test:
	go test ./...

ci:
	.ci/run

# Kills, freezes, restarts and, as root, cuts the network of real nodes under load for TORTURE with each durability, and
# judges what the clients were told by what the replicas hold. It prints seeds and counts. ARGS gives more flags.
torture: build
	./dunlin torture --time $(TORTURE) $(ARGS)
	./dunlin torture --time $(TORTURE) --durability os $(ARGS)

# Simulates whole clusters in virtual time, with faults, until it is stopped or for SIM, and prints counts. What
# breaks a promise is shown with its seed: DUNLIN_SEED=123 go test -v -run TestSeed ./internal/sim runs one again.
sim:
	DUNLIN_SIM=$(SIM) go test -count=1 -v -timeout 0 -run '^TestForever$$' ./internal/sim

# Plants protocol bugs, one after the other, and shows which of them the simulator finds, and how fast. MUTANTS is a
# pattern for their names.
mutants:
	DUNLIN_MUTANTS='$(MUTANTS)' go test -count=1 -v -timeout 12h -run '^TestMutants$$' ./internal/sim

# Measures Dunlin beside the other servers that are installed (about three minutes a round) and writes the tables of
# docs/benchmarks.md. BENCH gives more flags, e.g. BENCH="--rounds 1 --bin ~/go/bin".
bench:
	go run ./bench --write docs/benchmarks.md $(BENCH)

# Profiles three nodes under load, for the compiler (profile-guided optimization). Worth it after a change of what a request
# does; an old profile does no harm.
pgo:
	go run ./bench --profile --window 20s --pgo cmd/dunlin/load.pgo

# Micro-benchmarks of the packages on the path of a request: for how long each runs, and how often.
MICRO = ./antientropy ./api ./coordinator ./hinted ./internal/storage ./internal/transport ./internal/wire ./ring ./vclock
MICROBENCH = go test -run '^$$' -bench . -benchtime 200ms -count 6 -timeout 20m $(MICRO)

# Writes what they cost now into bench/baseline.txt. Only on a machine that does nothing else.
baseline:
	$(MICROBENCH) >bench/now.out
	mv bench/now.out bench/baseline.txt

# Shows what changed since then.
benchstat:
	$(MICROBENCH) >bench/now.out
	go tool -modfile=tools/go.mod benchstat bench/baseline.txt bench/now.out
