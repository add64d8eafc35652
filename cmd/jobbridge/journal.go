package main

import (
	"errors"
	"fmt"

	"github.com/jobbridge/jobbridge/publisher"
)

// journalCmd reads the journal in a data folder.
type journalCmd struct {
	Print journalPrintCmd `cmd:""`
	Check journalCheckCmd `cmd:""`
}

// journalFlags say where the journal is.
type journalFlags struct {
	DataDir string `default:"${data_dir}" type:"path"`
	JSON    bool   `name:"json"`
}

type journalPrintCmd struct {
	After uint64 `placeholder:"SEQUENCE"`
	journalFlags
}

// Run prints the records.
func (c *journalPrintCmd) Run(s streams) error {
	return publisher.PrintJournal(s.out, c.DataDir, publisher.PrintOptions{JSON: c.JSON, After: c.After})
}

type journalCheckCmd struct{ journalFlags }

// Run prints what it found.
func (c *journalCheckCmd) Run(s streams) error {
	report, err := publisher.CheckJournal(c.DataDir)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(s.out, report)
	} else {
		fmt.Fprintf(s.out, "journal %s: %s, %s, sequences %d to %d, %d bytes\n",
			report.Journal, count(report.Segments, "segment"), count(report.Records, "event"), report.First, report.Last, report.Bytes)
		for _, torn := range report.Torn {
			fmt.Fprintf(s.out, "not written completely, and never acknowledged: %s\n", torn)
		}
		for _, damage := range report.Damage {
			fmt.Fprintf(s.out, "damaged: %s\n", damage)
		}
	}
	if err == nil && len(report.Damage) > 0 {
		err = errors.New("the journal is damaged: restore it from a backup, " +
			"or start the bridge, which continues without the damaged events and says so")
	}
	return err
}
