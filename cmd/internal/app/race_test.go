//go:build race

package app_test

// raceEnabled says that the processes of the tests are several times slower.
const raceEnabled = true
