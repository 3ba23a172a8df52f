#!/bin/sh
# bbolt v1.5.0: Options.MaxSize is not how large the file may become. A page is
# refused from MaxSize less DB.AllocSize on, because the file grows by that much at
# a time. AllocSize is 16 MiB, is no option, and can be set after Open only. So a
# bound of 64 MiB holds 48 MiB.
#
# Seen on linux/amd64, Go 1.26, with a bound of 64 MiB, in MiB of pages that were
# in use before ErrMaxSizeReached came:
#
#   AllocSize as it is: 47
#   AllocSize 1 MiB:    62
#
# Needs Go and its module proxy; takes some seconds. Fails when this has changed.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > main.go <<'GO'
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// most is how many MiB of pages are in use when the bound is reached.
func most(name string, alloc int) int64 {
	db, err := bolt.Open(name, 0o600, &bolt.Options{MaxSize: 64 << 20, NoSync: true})
	if err != nil {
		panic(err)
	}
	defer db.Close()
	if alloc != 0 {
		db.AllocSize = alloc
	}
	var used int64
	for n := uint64(0); ; n += 16 {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			for i := range uint64(16) {
				if err := b.Put(binary.BigEndian.AppendUint64(nil, n+i), make([]byte, 60<<10)); err != nil {
					return err
				}
			}
			used = tx.Size()
			return nil
		})
		if errors.Is(err, berrors.ErrMaxSizeReached) {
			break
		}
		if err != nil {
			panic(err)
		}
	}
	return used >> 20
}

func main() {
	as, set := most("a.db", 0), most("b.db", 1<<20)
	fmt.Printf("AllocSize as it is: %d\nAllocSize 1 MiB:    %d\n", as, set)
	if as > 48 || set < 60 {
		fmt.Println("changed: see the head of this script")
		os.Exit(1)
	}
}
GO
cat > go.mod <<'MOD'
module finding

go 1.26
MOD
go get go.etcd.io/bbolt@v1.5.0 >/dev/null 2>&1
go run .
