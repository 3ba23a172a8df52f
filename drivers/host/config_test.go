package host

import (
	"os"
	"path/filepath"
	"testing"
)

// TestConfigSpaceIsReadNoFurtherThanItsHead, and as text: it is binary, and
// may end in a newline.
func TestConfigSpaceIsReadNoFurtherThanItsHead(t *testing.T) {
	l := Linux{Root: t.TempDir()}
	file := Attr("0000:01:00.0", "config")
	if err := os.MkdirAll(filepath.Dir(l.path(file)), 0o700); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		"\x86\x80\xc9\x10\x06\x04\n":       "8680c910",
		"\x0f\x1d\x20\n":                   "0f1d200a",
		"\xff\xff\xff\xff\xff\xff\xff\xff": "ffffffff",
	} {
		if err := os.WriteFile(l.path(file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Read(t.Context(), file); err != nil || got != want {
			t.Errorf("config %q reads as %q, %v, want %q", content, got, err, want)
		}
	}
}

// TestWhatAsksADeadDeviceIsReadInAChild and nothing else is.
func TestWhatAsksADeadDeviceIsReadInAChild(t *testing.T) {
	for file, want := range map[string]bool{
		Attr("0000:01:00.0", "config"):                             true,
		Attr("0000:01:00.0", "net/eth0/speed"):                     true,
		Attr("0000:01:00.0", "net/eth0/statistics/rx_errors"):      true,
		Attr("0000:01:00.0", "virtio0/net/e/statistics/tx_errors"): true,
		Attr("0000:01:00.0", "vendor"):                             false,
		Attr("0000:01:00.0", "aer_dev_fatal"):                      false,
		"/etc/NetworkManager/config":                               false,
	} {
		if got := ails(file); got != want {
			t.Errorf("%s is read in a child: %t, want %t", file, got, want)
		}
	}
}
