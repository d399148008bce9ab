// Package referee judges a store from outside: it is given what clients asked and were told, and what all replicas
// hold in the end, and says which promises were broken.
//
// It knows no network, no clock and nothing of how the store works inside. The simulator and the tests of real
// processes use the same one. A History can be written to a file and judged again later.
//
// A client names its values so that no two writes have the same one (Value makes such values), and tells with each
// write which values its context covers. From that alone follows which values may, must and must not be there:
//
//   - A write that was acknowledged is there in the end, unless another write covered it.
//   - A value that was read once does not vanish, unless a write covered it.
//   - Only what was written is read; what was answered "none" is never read; one write makes one sibling.
//   - What was overwritten or deleted under its context does not come back, nor is it shown beside its successor.
//   - A strict read (sloppy=false, R+W > N) sees every strict write that was acknowledged before it began.
//   - A dot names one value for ever.
//   - In a bucket with the lww policy one value wins.
//   - In the end all replicas of a key are equal, no hint is left, and no tombstone where those are reaped.
package referee
