package signals

import (
	"context"

	"github.com/autohedge/autohedge/stream/bus"
)

// SnapshotFloor returns the offset of md from which on a start of this role needs
// every record of the partition, though it falls back to the older of its two
// snapshots; ok is false until both are there. It does not leave the window of
// second copies.
func SnapshotFloor(ctx context.Context, client *bus.Client, partition int32) (offset int64, ok bool, err error) {
	return client.SnapshotFloor(ctx, SnapshotKey(partition))
}

// Stands returns the offset of md from which on a start reads the partition again:
// that of the newest whole snapshot, which the group's offset is ahead of. It is -1
// without a snapshot.
func Stands(ctx context.Context, client *bus.Client, partition int32) (offset int64, err error) {
	s, err := client.LoadSnapshot(ctx, SnapshotKey(partition))
	if err != nil || s == nil {
		return -1, err
	}
	return s.Input, nil
}
