package ring

// goldenAssignment holds, by family, the digest that TestGoldenAssignment computes.
var goldenAssignment = map[string]string{
	"1 zone":         "2b58abf0264fa625e4952527f24925ae",
	"2 zones mixed":  "4291dc5c60007b00811e092ab6b22938",
	"2 zones":        "0b4f2a2e48daf07e8b5f197cf3035a27",
	"3 uneven zones": "ba9ffcd41bab298e030975e4ade9c15a",
	"3 zones mixed":  "7a9da19e00bcad7e5ef11d4d29d99709",
	"3 zones wide":   "00e6e35205d21ac2f3f65ab8df78d087",
	"3 zones":        "cdd37e124592223f85aebe46632fce61",
	"4 uneven zones": "4fb0bf741be0daa1bdaa55516c9cdcef",
	"4 zones mixed":  "df40a0593177a32824f968c2356edde8",
	"4 zones":        "e7a10b9069f7c05f77c03ac99e29006c",
	"a table":        "ac93a93632b9c4062eb31a68ff818f2a",
	"equal":          "e2beb060fe3564e9e495ec12f720a29e",
	"mixed":          "3ea62732231327bcc7afabb7e9c3b8cd",
	"some zoneless":  "b6c3e195f352afdda0eb571cb5bc3fa8",
	"wide":           "a095d67d4d9b0e8aa103ef2f7016e5b2",
}
