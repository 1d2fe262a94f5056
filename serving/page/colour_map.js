// Dark violet to light yellow in equal steps of lightness: as even to the eye as it is in numbers, and in grey as well.
// A path through Oklab (Ottosson 2020, "A perceptual color space for image processing"), whose matrices are below.

const STEPS = 256;

function oklab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => {
    const within = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (within <= 0.0031308 ? 12.92 * within : 1.055 * within ** (1 / 2.4) - 0.055));
  });
}

function at(share) {
  const hue = ((300 - 195 * share) * Math.PI) / 180;
  const chroma = 0.1 + 0.07 * share;
  return oklab([0.25 + 0.67 * share, chroma * Math.cos(hue), chroma * Math.sin(hue)]);
}

const COLOURS = Array.from({ length: STEPS }, (_, step) => at(step / (STEPS - 1)));

// Red, green and blue of a share between 0 and 1.
export const colour = (share) => COLOURS[Math.round(share * (STEPS - 1))];
