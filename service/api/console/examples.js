// Texts to start from.

export const EXAMPLES = {
  News:
    "The deal, worth $3 billion, was announced by Deutsche Bank and Credit Suisse First Boston in Zurich. Angela Merkel " +
    "flew from Rome to meet officials of the European Commission. Manchester United beat Real Madrid 2-1 at Old Trafford.",
  Fiction:
    "Captain Ahab and the crew of the whaling ship left Nantucket. My sister's husband, the doctor of our village, " +
    "drove his carriage to the old house by the river.",
  Scripts:
    "🚀 Zoë Müller 👩🏽‍🚀 left São Paulo for Kraków. In Tokyo 🗼 she met Renée O’Connor of Nestlé and the 🇫🇷 team of Airbus.",
};
