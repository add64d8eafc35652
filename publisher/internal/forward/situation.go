package forward

// situation is the relation of stream, journal and checkpoint that resume has found.
type situation uint8

const (
	// fresh: there is no checkpoint.
	fresh situation = iota
	// unchanged: same target, same journal.
	unchanged
	// otherTarget: the checkpoint names another target.
	otherTarget
	// otherJournal: the checkpoint names another journal.
	otherJournal
	// recreated: the stream was created again.
	recreated
	// shortened: the stream's last sequence is below the checkpoint's.
	shortened
	// gaps: the stream reports lost messages.
	gaps
	// unfinished: a refill had begun and did not end.
	unfinished
	// doubtful: a sync of the target failed before.
	doubtful
)

var situationNames = [...]string{
	fresh:        "there is no checkpoint: forwarding begins at the journal's first record",
	unchanged:    "forwarding continues after the checkpoint",
	otherTarget:  "the target is another one than before: forwarding begins at the journal's first record",
	otherJournal: "the journal is another one than before: forwarding begins at its first record",
	recreated:    "the stream was created again and has lost its events: what the journal has is published again",
	shortened:    "the stream has lost its newest events: what the journal has is published again",
	gaps:         "the stream has lost events: what the journal has is published again",
	unfinished:   "the stream had lost events: publishing them again continues",
	doubtful:     "a sync of the stream had failed: everything after the checkpoint is published again",
}

func (s situation) String() string { return situationNames[s] }

// lost reports whether the stream has lost acknowledged events.
func (s situation) lost() bool {
	return s == recreated || s == shortened || s == gaps || s == unfinished
}

// compare returns the situation. c may be nil.
func (c *checkpoint) compare(target, journal string, info Info) situation {
	switch {
	case c == nil:
		return fresh
	case c.Target != target:
		return otherTarget
	case c.Journal != journal:
		return otherJournal
	case !c.Created.Equal(info.Created):
		return recreated
	case info.LastSeq < c.StreamSequence:
		return shortened
	case c.Refill:
		return unfinished
	case len(info.Lost) > c.Lost:
		return gaps
	case c.Doubt:
		return doubtful
	}
	return unchanged
}
