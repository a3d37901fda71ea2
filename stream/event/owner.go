package event

// Epoch is what an owner appends to every partition it owns before anything else:
// from there on a former owner of the key cannot append to that partition.
// Consumers pass over it.
type Epoch struct {
	Key string `json:"key"` // what is owned, such as "execution.2"
	// Number is higher than that of every former owner of the key.
	Number   uint64 `json:"number"`
	Instance ID     `json:"instance"` // of this claim, random
	Who      string `json:"who"`      // role, host and process, for people
	// ProducerID and ProducerEpoch are what the owner's batches carry.
	ProducerID    int64  `json:"producer_id"`
	ProducerEpoch uint32 `json:"producer_epoch"`
	Time          int64  `json:"time"`
}

// SnapshotChunk is a part of a snapshot's state.
type SnapshotChunk struct {
	Name  string `json:"name"`
	Save  ID     `json:"save"`  // the snapshot it belongs to
	Index uint32 `json:"index"` // from 0
	Data  []byte `json:"data"`
}

// SnapshotOutput is the end of one partition that a role appends to.
type SnapshotOutput struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	End       int64  `json:"end"`
}

// SnapshotManifest is the last record of a snapshot: without it, or with a
// checksum that does not fit, the snapshot does not exist.
type SnapshotManifest struct {
	Name  string `json:"name"`
	Epoch uint64 `json:"epoch"` // the owner's Number
	Save  ID     `json:"save"`  // random
	Slot  uint32 `json:"slot"`  // 0 or 1
	// Incarnation is that of InputTopic; Input the offset of the first record
	// that is not in the state.
	InputTopic  string           `json:"input_topic"`
	Incarnation ID               `json:"incarnation"`
	Input       int64            `json:"input"`
	Outputs     []SnapshotOutput `json:"outputs,omitempty"`
	Form        uint32           `json:"form"` // of the state's bytes, the role's own
	Chunks      uint32           `json:"chunks"`
	Size        uint64           `json:"size"` // of the state, in bytes
	// First is the offset of the first chunk, -1 when it is not known.
	First         int64  `json:"first"`
	Time          int64  `json:"time"`
	StateChecksum uint32 `json:"state_checksum"` // CRC32C
	Checksum      uint32 `json:"checksum"`       // CRC32C over the manifest with this field 0
}
