// Package house holds the test that keeps the structure of the code: which package may import which. It has no code
// of its own.
package house
