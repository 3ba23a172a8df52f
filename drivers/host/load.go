package host

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// maxModule bounds a decompressed module; the largest in a distribution
// kernel are some 10 MiB.
const maxModule = 64 << 20

// loadModule loads a module file through finit_module(2). The kernel
// decompresses it where it can (CONFIG_MODULE_DECOMPRESS, Linux 5.17 and
// later); elsewhere it says EOPNOTSUPP or, before it knew the flag, EINVAL.
func loadModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), params, flags)
	if flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		return loadDecompressed(f, params)
	}
	return os.NewSyscallError("finit_module", err)
}

func loadDecompressed(f *os.File, params string) error {
	image, err := decompress(f, maxModule)
	if err != nil {
		return fmt.Errorf("decompress %s: %w", f.Name(), err)
	}
	return os.NewSyscallError("init_module", unix.InitModule(image, params))
}

func decompress(f *os.File, limit int64) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var r io.Reader
	var err error
	switch {
	case strings.HasSuffix(f.Name(), ".xz"):
		r, err = xz.NewReader(f)
	case strings.HasSuffix(f.Name(), ".zst"):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f); err == nil {
			defer z.Close()
			r = z
		}
	case strings.HasSuffix(f.Name(), ".gz"):
		r, err = gzip.NewReader(f)
	default:
		return nil, errors.New("unknown compression: want .xz, .zst or .gz")
	}
	if err != nil {
		return nil, err
	}
	var image bytes.Buffer
	n, err := io.Copy(&image, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return image.Bytes(), err
}
