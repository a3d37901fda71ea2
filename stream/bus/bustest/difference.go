package bustest

import "fmt"

// FirstDifference says where two logs differ first.
func FirstDifference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%d: %s, want %s", i, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d and %d records, equal as far as both go", len(a), len(b))
}
