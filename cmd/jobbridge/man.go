package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

// Run prints the manual page in the language of groff.
func (manCmd) Run(k *kong.Context, s streams) error {
	b := readBuild()
	day, _, _ := strings.Cut(b.Date, "T")
	var p manPage
	p.line(".TH JOBBRIDGE 1 %q %q", day, "jobbridge "+b.Version)
	p.line(".SH NAME\njobbridge \\- a bridge from signed webhooks to NATS\n.SH SYNOPSIS\n.B jobbridge\n.I command\n[flags]\n.SH DESCRIPTION")
	p.text(k.Model.Help + "\n\n" + k.Model.Detail)
	p.line(".SH COMMANDS")
	for _, node := range commandsOf(k.Model.Node)[1:] {
		if len(node.Children) > 0 {
			continue
		}
		p.line(".SS %s", roff(node.Summary()))
		p.text(node.Help + "\n\n" + node.Detail)
		for _, argument := range node.Positional {
			p.item(argument.Summary(), argument.Help)
		}
		if takesServeFlags(node) && node.Name != "serve" {
			continue // its text says so
		}
		var group *kong.Group
		for _, flag := range node.Flags {
			if flag.Hidden {
				continue
			}
			if flag.Group != nil && (group == nil || group.Title != flag.Group.Title) {
				group = flag.Group
				p.line(".PP\n.B %s", roff(group.Title))
			}
			p.item(flag.String(), flag.Help)
		}
	}
	p.line(".SH ENVIRONMENT")
	p.item(secretEnv, "Signing secrets, with a comma or a newline between them.")
	p.item("JOBBRIDGE_…", "The flags of serve, and the flags of other commands whose text names a variable.")
	p.line(".SH EXIT STATUS")
	p.text("0 after success, 1 after a failure, 2 after a mistake in what was asked for.")
	_, err := io.WriteString(s.out, p.String())
	return err
}

// manPage is a manual page that is being written.
type manPage struct{ strings.Builder }

func (p *manPage) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// item writes a flag or another term, and its explanation.
func (p *manPage) item(term, help string) { p.line(".TP\n.B %s\n%s", roff(term), roff(help)) }

// text writes paragraphs. Indented lines are examples, which are not wrapped.
func (p *manPage) text(text string) {
	example := false
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if indented := strings.HasPrefix(line, "  "); indented != example && strings.TrimSpace(line) != "" {
			example = indented
			p.line(map[bool]string{true: ".RS\n.nf", false: ".fi\n.RE"}[example])
		}
		if line = strings.TrimSpace(line); line == "" {
			p.line(".PP")
		} else {
			p.line("%s", roff(line))
		}
	}
	if example {
		p.line(".fi\n.RE")
	}
}

// roff escapes text for groff.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
