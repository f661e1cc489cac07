/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files of the guest as they are: how its kernel shows devices, interrupts, addresses and clocks. */
#ifndef FILES_H
#define FILES_H

#include "json.h"
#include "request.h"

/*
 * Request key "of": patterns of glob(7), with braces, separated by ':'. Member "files": the number of files.
 * A pattern that ends with "@<offset>,<offset>...", hexadecimal, means 8 bytes at each of these offsets, such as
 * registers of /dev/cpu/0/msr; each is a file of its own then, with the path "<path>@<offset>".
 * The payload has the files, one behind the other: "<path>\n<length>\n<content>", with "-<errno>" and no content for one
 * that cannot be read. Folders are left out, and of a long file all beyond its first bytes.
 */
void files_read(struct request *request, struct output *out);

#endif
