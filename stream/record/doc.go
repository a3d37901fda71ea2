// Package record reads, plays and writes recordings: files of raw frames as they
// came over an exchange's socket, one line each with its receive time.
//
// It owns the line format (format.go), what a recording tells of its venue,
// symbols and channels (scan.go), the Player, a loopback WebSocket server that
// gives the frames again with their receive times (player.go), and the Recorder
// (recorder.go). It must not know the bus, the stream role, or what a frame
// means beyond its kind, symbol and channel: decoding is the venues'.
//
// Start with Player; `demo --feed recording:FILE` is built on it.
package record
