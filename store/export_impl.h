/* One session as a file: what store_export writes, store_import reads and store_export_look looks
 * through. Little endian throughout, no padding, read once from front to end.
 *
 *   header   8  "RXTSESSN"
 *            4  format, 2; 1 is read, too
 *            4  zero
 *   records     SESSION, then at most two IMAGEs, then TURNs, then END; each
 *            4  type: 1 SESSION, 2 IMAGE, 3 TURN, 4 END
 *            4  zero
 *            8  bytes of the payload, which must be what its content needs
 *            *  the payload
 *            8  XXH3-64 over all of it before; not in format 1. It tells which record was changed
 *   seal    32  BLAKE2b-256 over everything before it
 *
 *   SESSION 16  model hash
 *           24  dtype, n_layer, n_slot, embed_dim, init, generator: 4 each
 *           40  seed, base, applied, version taken, created: 8 each
 *            4  flags
 *          128  model name, 128 session name, 128 why it is held: padded with zeros, never full
 *   IMAGE   16  hash of the memory
 *           24  version, bytes, created: 8 each
 *           32  bit class, padded with zeros, never full
 *            *  the bytes
 *   TURN    16  request id
 *           24  kind, candidate, n_ids, n_query, bytes of query text and of answer text: 4 each;
 *               0xffffffff bytes: the text is absent
 *           12  top_k; temperature, top_p (IEEE 754 single): 4 each
 *           40  version, read_version, parent, seed, wall time: 8 each
 *           64  finish, bit class: 32 each, padded with zeros, never full
 *            *  ids (int32), query text, answer text
 *   END      8  number of records before it
 *
 * Versions of TURNs go up by one from base + 1; an IMAGE has a version from base to applied, the
 * second a higher one than the first; where base is not 0, the first is of base. The last TURN is
 * not below applied. */
#ifndef RXT_STORE_EXPORT_IMPL_H
#define RXT_STORE_EXPORT_IMPL_H

#include "store/store.h"

#define EXPORT_MAGIC "RXTSESSN"
#define EXPORT_FORMAT 2u
#define EXPORT_FORMAT_WITHOUT_SUMS 1u
#define EXPORT_HEADER_BYTES 16
#define EXPORT_RECORD_BYTES 16
#define EXPORT_SUM_BYTES 8
#define EXPORT_SEAL_BYTES 32
#define EXPORT_SESSION_BYTES (16 + 24 + 40 + 4 + 3 * STORE_NAME_MAX)
#define EXPORT_IMAGE_BYTES (16 + 24 + STORE_LABEL_MAX)              /* without the bytes */
#define EXPORT_TURN_BYTES (16 + 24 + 12 + 40 + 2 * STORE_LABEL_MAX) /* without ids and texts */
#define EXPORT_NO_TEXT UINT32_MAX
#define EXPORT_IMAGES_MAX 2

enum export_type { EXPORT_SESSION = 1, EXPORT_IMAGE = 2, EXPORT_TURN = 3, EXPORT_END = 4 };

#endif
