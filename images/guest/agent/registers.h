/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Registers of devices that no driver of the guest uses. */
#ifndef REGISTERS_H
#define REGISTERS_H

#include "json.h"
#include "request.h"

/* port=1023 value=90 width=1: write to an I/O port; width 1, 2 or 4 bytes. */
void registers_write_port(struct request *request, struct output *out);
/* path=/sys/bus/pci/devices/0000:00:02.0/config offset=12 bytes=10: write bytes at an offset of a file of registers. */
void registers_write_file(struct request *request, struct output *out);

#endif
