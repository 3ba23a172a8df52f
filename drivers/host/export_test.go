package host

import (
	"encoding/json"
	"os"
)

// What the tests of package host_test reach for, which has to be another
// package because the simulated kernel imports this one.

func WriteOnce(path, value string) error { return writeOnce(path, value) }

func Decompress(f *os.File, limit int64) ([]byte, error) { return decompress(f, limit) }

func ParseVFs(message []byte) ([]VF, bool, error) { return parseVFs(message) }

func ParseUevent(message []byte) (Event, bool) { return parseUevent(message) }

// OverThePipe is an error as the agent gets it from a writer child.
func OverThePipe(err error) error {
	b, jerr := json.Marshal(response{Error: encodeError(err)})
	if jerr != nil {
		return jerr
	}
	var r response
	if jerr := json.Unmarshal(b, &r); jerr != nil {
		return jerr
	}
	return r.Error.decode()
}
