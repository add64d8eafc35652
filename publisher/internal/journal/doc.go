// Package journal is a write-ahead log. [Journal.Append] returns when a record is on stable storage. Records that arrive during a
// write to the disk share the next write and the next sync. To the package, a record is bytes: an id, a digest, a subject, headers
// and a payload. It leaves publishing them to its caller.
//
//	j, err := journal.Open(ctx, journal.Options{Dir: "/var/lib/jobbridge"})
//	a, err := j.Append(ctx, journal.Record{Key: "sync:job:42", ID: "sync:42:COMPLETED", …})
//	r, err := j.NewReader(0).Next(ctx) // the first record
//	j.Release(r.Sequence)              // it may be deleted once it is old enough
//
// # Promises
//
// A record that was acknowledged exists after a crash of the process, and with [event.Fsync] after a power cut. A record with the
// same job and id is stored once. A sequence is assigned once. After the first error of a write, a sync or a folder nothing is
// acknowledged any more, because the kernel may have dropped the pages.
//
// The package requires that the disk changes no byte outside the pages that are written, and none where the same bytes are written
// again. NFS is not supported.
//
// # Files
//
//	lock                 names the process that holds the folder
//	journal/<first>.log  a segment, named by its first sequence in 20 digits
//	journal/<first>.idx  its sidecar, which is derived from the segment and may exist without the segment
//	journal/next.tmp     the next segment, preallocated; journal/sidecar.tmp a sidecar
//	damaged/             links to segments in which something is unreadable
//
// All integers are little-endian. CRC is CRC-32C (Castagnoli). A page is 4096 bytes.
//
// A segment is a header page followed by groups. Each group begins at the start of a page, so that a torn write cannot change a
// group that was acknowledged before. The rest of the file is zeros, or what a torn write left.
//
// Segment header, 88 bytes, then zeros up to 4096:
//
//	 0  8  magic "JJBJRNL1"
//	 8 16  id of the journal, random
//	24  8  id of the segment, random and not 0
//	32  4  ordinal of the segment: one more than that of the previous segment
//	36  4  0
//	40  8  first sequence
//	48  8  creation, Unix time in nanoseconds
//	56  8  id of the previous segment; 0: there is none
//	64  8  last sequence of the previous segment
//	72  8  offset up to which the previous segment had been synced; 0: unknown
//	80  4  0
//	84  4  CRC of bytes 0 to 83
//
// Group header, 64 bytes, followed by the records and zeros up to the next page. A group without records only states that the
// previous group had been synced.
//
//	 0  4  magic "JBGR"
//	 4  4  number of records
//	 8  8  id of the segment
//	16  8  sequence of the first record
//	24  8  offset up to which this segment had been synced; 0: unknown
//	32  4  length of the records in bytes
//	36  4  CRC of the records
//	40  8  age: the nanoseconds that the journal had been open in total, by monotonic clocks
//	48  8  offset of this group in the segment
//	56  4  ordinal of the segment
//	60  4  CRC of bytes 0 to 59
//
// A place without a valid group is damage if a later group, or the header of the next segment, states that the place had been
// synced. Otherwise it is the torn end of the log, and nothing in it was acknowledged.
//
// Record, 80 bytes and the fields, then zeros up to a multiple of 8:
//
//	 0  4  length of the record with its padding
//	 4  4  flags; 1: local, never forwarded
//	 8  8  sequence
//	16  8  Unix time in nanoseconds
//	24  8  position of the job's previous record; 0: there is none
//	32 32  SHA-256 of the payload
//	64  2  length of the job key
//	66  2  length of the message id
//	68  2  length of the subject
//	70  2  0
//	72  4  length of the headers
//	76  4  length of the payload
//	80     job key, message id, subject, headers, payload
//
// A position has the ordinal of a segment in its upper 32 bits, and an offset in its lower 32 bits.
//
// Sidecar, 96 bytes and one entry of 72 bytes for each record:
//
//	 0  8  magic "JRNLIDX1"
//	 8 16  id of the journal
//	24  8  id of the segment
//	32  4  ordinal of the segment
//	36  4  number of entries
//	40  8  first sequence
//	48  8  last sequence
//	56  8  offset of the end of the last group
//	64  8  age of the last group
//	72  8  creation of the segment, Unix time in nanoseconds
//	80  8  0
//	88  4  CRC of the entries
//	92  4  CRC of bytes 0 to 91
//
//	 0  8  first 8 bytes of the SHA-256 of the job key, or of "sha256:<hex of the digest>"
//	 8  8  first 8 bytes of the SHA-256 of the message id
//	16  8  sequence
//	24  8  position of the job's previous record
//	32  4  offset of the record in the segment
//	36  4  flags
//	40 32  SHA-256 of the payload
//
// The first group of testdata/golden, at offset 4096 of its segment, without padding:
//
//	00000000  4a 42 47 52 01 00 00 00  85 e0 cf 3a 50 cb ef 41  |JBGR.......:P..A|
//	00000010  01 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
//	00000020  00 01 00 00 e4 df bc 5a  00 58 47 f8 0d 00 00 00  |.......Z.XG.....|
//	00000030  00 10 00 00 00 00 00 00  01 00 00 00 51 60 cf 26  |............Q`.&|
//	00000040  00 01 00 00 00 00 00 00  01 00 00 00 00 00 00 00  |................|
//	00000050  05 00 2a 36 fe 9c 97 17  00 00 00 00 00 00 00 00  |..*6............|
//	00000060  7b 68 82 4a d3 2c 8b c2  e2 db 18 e0 48 55 c4 90  |{h.J.,......HU..|
//	00000070  f6 dc 97 ce 60 5a 40 76  bc e0 c3 7a 52 01 72 08  |....`Z@v...zR.r.|
//	00000080  0f 00 15 00 0d 00 00 00  59 00 00 00 24 00 00 00  |........Y...$...|
//	00000090  73 79 6e 63 3a 6a 6f 62  3a 6a 6f 62 2d 34 32 73  |sync:job:job-42s|
//	000000a0  79 6e 63 3a 6a 6f 62 2d  34 32 3a 43 4f 4d 50 4c  |ync:job-42:COMPL|
//	000000b0  45 54 45 44 6a 6f 62 2e  63 6f 6d 70 6c 65 74 65  |ETEDjob.complete|
//	000000c0  64 4a 6f 62 2d 4b 69 6e  64 3a 20 6a 6f 62 0d 0a  |dJob-Kind: job..|
//	000000d0  52 65 63 65 69 76 65 64  2d 41 74 3a 20 32 30 32  |Received-At: 202|
//	000000e0  33 2d 31 31 2d 31 34 54  32 32 3a 31 33 3a 32 30  |3-11-14T22:13:20|
//	000000f0  5a 0d 0a 4a 6f 62 2d 49  64 3a 20 6a 6f 62 2d 34  |Z..Job-Id: job-4|
//	00000100  32 0d 0a 4a 6f 62 2d 53  74 61 74 75 73 3a 20 43  |2..Job-Status: C|
//	00000110  4f 4d 50 4c 45 54 45 44  0d 0a 7b 22 69 64 22 3a  |OMPLETED..{"id":|
//	00000120  22 6a 6f 62 2d 34 32 22  2c 22 73 74 61 74 75 73  |"job-42","status|
//	00000130  22 3a 22 43 4f 4d 50 4c  45 54 45 44 22 7d 00 00  |":"COMPLETED"}..|
package journal
