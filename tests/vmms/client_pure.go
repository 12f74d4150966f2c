//go:build !cgo

package main

// What the form with cgo adds.
func more() string {
	return ""
}
