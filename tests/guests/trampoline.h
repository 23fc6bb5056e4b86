// Where an application processor starts, in real mode; a start-up IPI names it by its page number.
#pragma once

#define GUEST_TRAMPOLINE 0x10000
