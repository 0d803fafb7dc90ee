/* The smallest firmware of a Cortex-M: where a real one would read its sensor, it waits for an interrupt. */
#include <stdint.h>

extern uint32_t stack_end;

/* Found by `strings` in the image, as people look for it. */
__attribute__((used)) static const char name[] = APPLICATION " " VERSION " for " BOARD;

static void reset(void)
{
	for (;;)
		__asm__ volatile("wfi");
}

/* ARMv7-M B1.5.3: the stack and the reset handler come first. */
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_end, (void *)reset};
