// Package crashimage makes, of a recording of a program's system calls, the
// files that a power cut could have left at any moment of it.
//
//	cmd := exec.Command("strace", append(crashimage.Strace("trace"), program...)...)
//	cmd.ExtraFiles = []*os.File{marks} // the program's words for "this is durable"
//	...
//	r := crashimage.New(dir)
//	err := r.Read(trace)
//	for im := range r.Images(crashimage.Choice{}) {
//		err := im.Write(place) // what is there must be legal after im.Sure marks
//	}
//
// # The model
//
// What was written to a file is durable when the file was synced, a name when
// its directory was; until then each write, each change of size and each name
// (made, moved, removed) is there or not, in any combination, and one write may
// be torn between two sectors, either side of it being there. Syncing a file
// does not make its name durable. Real file systems promise more than that;
// a program that stands on this ground stands on all of them.
//
// A program that is killed loses nothing, but what it did not sync stays so, and
// the next program builds on it: Kill is for that.
package crashimage
