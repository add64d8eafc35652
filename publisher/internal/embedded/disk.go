package embedded

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// disk is the file system of the server's folder, in bytes.
type disk struct{ free, total int64 }

// readDisk returns the size of the file system of dir, and the space on it that an ordinary user can still write.
func readDisk(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	block := int64(st.Bsize)                                                          //nolint:unconvert // the fields differ between systems
	return disk{free: int64(st.Bavail) * block, total: int64(st.Blocks) * block}, nil //nolint:unconvert // as above
}

// trimReserve returns the free space below which acknowledged events are trimmed: the larger of 256 MiB and 5 %, but at most an
// eighth of the disk. The journal rejects deliveries when the disk is full, so the stream must shrink first.
func (d disk) trimReserve() int64 { return min(max(256<<20, d.total/20), d.total/8) }

// reserve returns the free space below which no event is sent to the stream: 32 MiB, but at most a sixteenth of the disk. It is
// less than trimReserve, because the journal can delete only what was forwarded.
func (d disk) reserve() int64 { return min(32<<20, d.total/16) }
