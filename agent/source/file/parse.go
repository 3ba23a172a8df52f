package file

import (
	"crypto/sha256"
	"encoding/hex"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
)

// Parse reads the text of a file. The path is for messages only. An error
// holds every problem of the file, each a *source.Problem.
func Parse(path string, data []byte) (*source.Desired, error) {
	list, err := entry.Document(path, data)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return &source.Desired{
		Source:     Name,
		Object:     path,
		Generation: hex.EncodeToString(sum[:]),
		Interfaces: list,
	}, nil
}
