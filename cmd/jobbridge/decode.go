package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
)

// decodePath makes a path absolute. An empty path stays empty: a variable that is set to nothing removes the value of an image or a
// file, and does not mean the present folder.
func decodePath(ctx *kong.DecodeContext, target reflect.Value) error {
	var path string
	if err := ctx.Scan.PopValueInto("path", &path); err != nil {
		return err
	}
	if path != "" {
		path = kong.ExpandPath(path)
	}
	target.SetString(path)
	return nil
}

// decodeSize parses a size. A number without a unit is a number of bytes.
func decodeSize(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("size")
	if err != nil {
		return err
	}
	text := fmt.Sprint(token.Value)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		var size units.Base2Bytes
		if size, err = units.ParseBase2Bytes(text); err != nil {
			return fmt.Errorf("%q is no size: want one such as 64MiB, or a number of bytes", text)
		}
		n = int64(size)
	}
	target.SetInt(n)
	return nil
}

// decodeDuration parses a duration, which may be in days. It refuses a number without a unit, which kong takes for nanoseconds.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("duration")
	if err != nil {
		return err
	}
	text := fmt.Sprint(token.Value)
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); err != nil && ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 17) // more would not fit
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil {
		return fmt.Errorf("%q is no duration: want one with its unit, such as 30s, 5m or 7d", text)
	}
	target.SetInt(int64(d))
	return nil
}

// ignoreEmpty ignores the variables that are set to nothing, except where an empty value is possible. Container tools set them.
func ignoreEmpty(app *kong.Application) {
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error { // its errors are those of this function
		if flag, ok := node.(*kong.Flag); ok {
			kind := flag.Target.Kind()
			isText := (kind == reflect.String && flag.Enum == "" || kind == reflect.Slice) && flag.Name != "config"
			for _, env := range flag.Envs {
				if text, ok := os.LookupEnv(env); ok && text == "" && !isText {
					flag.Envs, flag.Tag.Envs = nil, nil
				}
			}
		}
		return next(nil)
	})
}

// clientVariables are the flags that say which server a command connects to, and with which credentials.
var clientVariables = []string{
	"admin", "admin-ca", "admin-cert", "admin-key", "admin-server-name", "url", "auth-file", "ca", "cert", "key", "server-name",
}

// limitVariables removes the variable of each flag that is for one call of a command, such as --timeout and --id: JOBBRIDGE_TIMEOUT
// would mean one thing to drain and another to health.
func limitVariables(app *kong.Application) {
	keep := append(flagsOfServe(app), clientVariables...)
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error { // its errors are those of this function
		if flag, ok := node.(*kong.Flag); ok && !slices.Contains(keep, flag.Name) {
			flag.Envs, flag.Tag.Envs = nil, nil
		}
		return next(nil)
	})
}
