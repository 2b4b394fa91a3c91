// WASI: counts the lines of standard input, or of each file that is named.
//
//	wasm-executor invoke lines.wasm --argv lines --argv /a.txt --file /a.txt=FILE
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func count(source io.Reader, name string) {
	content, err := io.ReadAll(source)
	if err != nil {
		fail(name, err)
	}
	fmt.Printf("%d %s\n", bytes.Count(content, []byte{'\n'}), name)
}

func fail(name string, why any) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, why)
	os.Exit(1)
}

func main() {
	if len(os.Args) < 2 {
		count(os.Stdin, "-")
		return
	}
	for _, name := range os.Args[1:] {
		file, err := os.Open(name)
		if err != nil {
			fail(name, "no such file")
		}
		count(file, name)
		file.Close()
	}
}
