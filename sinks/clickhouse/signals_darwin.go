package clickhouse

// ownedSignals are the signals that libchdb resets (ABRT, SEGV, ILL, BUS, SYS,
// FPE, TSTP, TRAP), by their macOS numbers.
var ownedSignals = []int32{6, 11, 4, 10, 12, 8, 18, 5}
