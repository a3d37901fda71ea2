package signals

import (
	"slices"
	"strings"
)

// cooldown is the time of the last signal of a rule that does not watch the
// instrument at present: it has been edited away, removed, or cannot run here.
// When the rule comes back, its cooldown goes on.
type cooldown struct {
	rule string
	last int64 // receive time, Unix nanoseconds
}

// maxCooldowns bounds the cooldowns of absent rules that an instrument keeps: the
// oldest goes first.
const maxCooldowns = 256

// takeCooldown removes and returns the cooldown of a rule that was absent.
func (inst *instrument) takeCooldown(rule string) (last int64, fired bool) {
	i, ok := inst.findCooldown(rule)
	if !ok {
		return 0, false
	}
	last = inst.cooldowns[i].last
	inst.cooldowns = slices.Delete(inst.cooldowns, i, i+1)
	return last, true
}

// putCooldown keeps the cooldown of a rule that goes; they are in order of names.
func (inst *instrument) putCooldown(rule string, last int64) {
	i, ok := inst.findCooldown(rule)
	if ok {
		inst.cooldowns[i].last = last
		return
	}
	inst.cooldowns = slices.Insert(inst.cooldowns, i, cooldown{rule: rule, last: last})
	if len(inst.cooldowns) > maxCooldowns {
		oldest := 0
		for i := range inst.cooldowns {
			if inst.cooldowns[i].last < inst.cooldowns[oldest].last {
				oldest = i
			}
		}
		inst.cooldowns = slices.Delete(inst.cooldowns, oldest, oldest+1)
	}
}

func (inst *instrument) findCooldown(rule string) (int, bool) {
	return slices.BinarySearchFunc(inst.cooldowns, rule, func(c cooldown, name string) int { return strings.Compare(c.rule, name) })
}

// Edit is what differs between two rule sets, by names of rules in order.
type Edit struct {
	Added, Removed []string
	// Kept are edited rules that go on with what they have, as what they do with a
	// tick is the same; Restarted begin as after a hole, but for their cooldown.
	Kept, Restarted []string
	Unchanged       int
}

// Compare tells what becomes of the rules of one set when the other follows it.
func (s *RuleSet) Compare(next *RuleSet) Edit {
	var e Edit
	before := make(map[string]*rule, len(s.rules))
	for _, r := range s.rules {
		before[r.Name] = r
	}
	for _, r := range next.rules {
		prev, ok := before[r.Name]
		switch {
		case !ok:
			e.Added = append(e.Added, r.Name)
		case prev.hash == r.hash:
			e.Unchanged++
		case prev.evaluatesLike(r):
			e.Kept = append(e.Kept, r.Name)
		default:
			e.Restarted = append(e.Restarted, r.Name)
		}
		delete(before, r.Name)
	}
	for _, r := range s.rules {
		if _, gone := before[r.Name]; gone {
			e.Removed = append(e.Removed, r.Name)
		}
	}
	return e
}
