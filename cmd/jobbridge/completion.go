package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish"`
}

// Run prints a script that has the commands and the flags in it, so that completing calls no program.
func (c *completionCmd) Run(k *kong.Context, s streams) error {
	commands := commandsOf(k.Model.Node)
	switch c.Shell {
	case "fish":
		return fishCompletion(s.out, commands)
	case "zsh": // zsh runs completions that are made for bash
		fmt.Fprintln(s.out, "#compdef jobbridge\nautoload -U +X bashcompinit && bashcompinit")
	}
	return bashCompletion(s.out, commands)
}

// commandsOf returns a node and all commands below it.
func commandsOf(node *kong.Node) []*kong.Node {
	list := []*kong.Node{node}
	for _, child := range node.Children {
		list = append(list, commandsOf(child)...)
	}
	return list
}

// completion is one word that can follow a command, or the value of a flag.
type completion struct{ word, help string }

// completions returns the commands, the visible flags and the fixed arguments that can follow a command.
func completions(node *kong.Node) (list []completion) {
	for _, child := range node.Children {
		list = append(list, completion{child.Name, child.Help})
	}
	for _, argument := range node.Positional {
		for _, value := range fixedValues(argument) {
			list = append(list, completion{value, argument.Help})
		}
	}
	for _, level := range node.AllFlags(true) {
		for _, flag := range level {
			list = append(list, completion{"--" + flag.Name, flag.Help})
			if flag.Tag.Negatable != "" {
				list = append(list, completion{"--no-" + flag.Name, flag.Help})
			}
		}
	}
	return list
}

// fixedValues returns the values of a flag or an argument that has only a few.
func fixedValues(value *kong.Value) []string {
	return strings.FieldsFunc(value.Enum, func(r rune) bool { return r == ',' })
}

// bashFunction is the completion of bash. It takes the commands, the values of flags, and the words after each command.
const bashFunction = `_jobbridge() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= words= w
  if [ "$word" = = ]; then word=; elif [ "$before" = = ]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi
  for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$command $w" in
    %s) command="$command $w" ;;
    esac
  done
  case "$command $before" in
%s  *) case "$command" in
%s  esac ;;
  esac
  if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$word")); else COMPREPLY=($(compgen -f -- "$word")); fi
}
complete -o filenames -F _jobbridge jobbridge
`

// bashCompletion prints a function that completes commands, flags, the values of flags that have few, and names of files.
func bashCompletion(w io.Writer, commands []*kong.Node) error {
	var names []string
	var follow, values strings.Builder
	for _, node := range commands {
		name, words := commandName(node), []string(nil)
		if name != "" {
			name = " " + name
			names = append(names, fmt.Sprintf("%q", name))
		}
		for _, c := range completions(node) {
			words = append(words, c.word)
		}
		fmt.Fprintf(&follow, "  %q) words=%q ;;\n", name, strings.Join(words, " "))
		for _, flag := range node.Flags {
			switch {
			case flag.Enum != "":
				fmt.Fprintf(&values, "  %q) words=%q ;;\n", name+" --"+flag.Name, strings.Join(fixedValues(flag.Value), " "))
			case !flag.IsBool():
				fmt.Fprintf(&values, "  %q) ;;\n", name+" --"+flag.Name)
			}
		}
	}
	_, err := fmt.Fprintf(w, bashFunction, strings.Join(names, "|"), values.String(), follow.String())
	return err
}

// fishCompletion prints the completions in the language of fish.
func fishCompletion(w io.Writer, commands []*kong.Node) error {
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	for _, node := range commands {
		condition := "__fish_use_subcommand"
		if name := commandName(node); name != "" {
			condition = "__fish_seen_subcommand_from " + strings.ReplaceAll(name, " ", "; and __fish_seen_subcommand_from ")
		}
		for _, child := range node.Children {
			if node.Parent != nil {
				condition += "; and not __fish_seen_subcommand_from " + child.Name
			}
		}
		for _, c := range completions(node) {
			form, word := "-a", c.word
			if flag, ok := strings.CutPrefix(c.word, "--"); ok {
				form, word = "-l", flag
			}
			_, err := fmt.Fprintf(w, "complete -c jobbridge -n %s %s %s -d %s\n", quote(condition), form, quote(word), quote(c.help))
			if err != nil {
				return err
			}
		}
	}
	return nil
}
