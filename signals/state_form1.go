package signals

// Form 1 of a state is what the builds before form 2 wrote: fewer counts, and in
// an instrument's section no cooldowns of absent rules and no places, forms and
// lengths. Its indicators and rules follow one another as bindRules makes them of
// the same rule set. It is read so that a data folder of then goes on.
const (
	form1       = 1
	form1Counts = 9
)

// readWatchesForm1 reads the indicators and rules of a section.
func (r *engineReader) readWatchesForm1(inst *instrument) error {
	if n := r.Uint(); n != uint64(len(inst.watches)) {
		r.Failf("%s has %d indicators by its rules, %d were saved", inst.key, len(inst.watches), n)
	}
	for _, w := range inst.watches {
		if r.Err() != nil {
			break
		}
		if form := w.rules[0].rule.form; form != 1 {
			r.Failf("%s of %s has form %d, form 1 was saved", w.name, inst.key, form)
			break
		}
		if err := w.ind.RestoreState(r.StateReader); err != nil {
			return err
		}
		if n := r.Uint(); n != uint64(len(w.rules)) {
			r.Failf("%s, %s has %d rules, %d were saved", inst.key, w.name, len(w.rules), n)
		}
		for i := range w.rules {
			w.rules[i].state.restore(r.StateReader, r.engine.now)
		}
	}
	return r.Err()
}
