//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
)

// serveCeiling serves what no bridge can be faster than, and prints its URL:
// echo, the signature, a 200.
func serveCeiling(ctx context.Context) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	verifier, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		return err
	}
	e := echo.New()
	e.POST("/webhook", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		if _, err := verifier.Verify(c.Request().Header.Get(verify.HeaderName), body); err != nil {
			return echo.NewHTTPError(http.StatusBadRequest)
		}
		return c.JSON(http.StatusOK, map[string]string{"message": "Webhook signature verified"})
	})
	srv := &http.Server{Handler: e} //nolint:gosec // for one client, of our own
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	fmt.Printf("http://%s/webhook\n", ln.Addr())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
