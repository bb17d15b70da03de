// Patches cut out of images: row r holds channel by channel, line by line, the p×p patch number index[r] of its image.
#include "device.cuh"

// Where a value of a patch lies in its image.
struct Place {
    int channel;
    int line;
    int column;
};

DEVICE Place place(int at, int number, int columns, int patch) {
    Place place;
    place.channel = at / (patch * patch);
    place.line = number / columns * patch + at / patch % patch;
    place.column = number % columns * patch + at % patch;
    return place;
}

// y (rows, channels·p·p) = the patches of images (b, channels, height, width); index (k·b, kept), each selection running over
// all images. A warp a row.
KERNEL patchify(bf16* y, const bf16* images, const u32* index, int rows, int batch, int channels, int height, int width,
                int patch, int kept) {
    const int row = warp_row();
    if (row >= rows) return;
    const int image = row / kept % batch, len = channels * patch * patch;
    for (int at = lane(); at < len; at += WARP) {
        const Place from = place(at, index[row], width / patch, patch);
        const size_t line = (static_cast<size_t>(image) * channels + from.channel) * height + from.line;
        y[static_cast<size_t>(row) * len + at] = images[line * width + from.column];
    }
}
