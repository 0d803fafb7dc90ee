#!/bin/sh
# Builds one board's image: Debian's gcc-arm-none-eabi, and imgtool, which makes it one that MCUboot starts.
set -eu
header=0x200
case $FIRMWARE_BOARD in
nrf52840dk) cpu=cortex-m4 slot=0xc000 ram_end=0x20040000 ;;
mps2_an385) cpu=cortex-m3 slot=0x10000 ram_end=0x20400000 ;;
*) echo "no such board: $FIRMWARE_BOARD" >&2 && exit 1 ;;
esac
mkdir -p build
made=build/$FIRMWARE_BOARD
arm-none-eabi-gcc -mcpu=$cpu -mthumb -Os -Wall -Werror -ffreestanding -nostdlib -T image.ld \
	-Wl,--defsym=FLASH=$((slot + header)) -Wl,--defsym=RAM_END=$ram_end -Wl,--build-id=none \
	-DAPPLICATION="\"$FIRMWARE_APPLICATION\"" -DVERSION="\"$FIRMWARE_VERSION\"" -DBOARD="\"$FIRMWARE_BOARD\"" \
	main.c -o "$made.elf"
arm-none-eabi-objcopy -O binary "$made.elf" "$made.code"
imgtool sign --version "$FIRMWARE_VERSION" --security-counter "$FIRMWARE_SECURITY_COUNTER" \
	--vid example.com --cid "$FIRMWARE_BOARD" --header-size $header --pad-header --align 4 --slot-size 0x60000 \
	"$made.code" "$made.bin"
