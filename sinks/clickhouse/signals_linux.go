package clickhouse

// ownedSignals are the signals that libchdb resets (ABRT, SEGV, ILL, BUS, SYS,
// FPE, TSTP, TRAP), by their Linux numbers on amd64 and arm64.
var ownedSignals = []int32{6, 11, 4, 7, 31, 8, 20, 5}
