package cluster

var (
	teams  = []string{"payments", "search", "catalog", "identity", "logistics", "billing", "media", "insight", "growth", "platform", "risk", "mobile"}
	stages = []string{"prod", "staging", "dev", "canary", "eu", "us", "apac"}
	first  = []string{
		"order", "cart", "checkout", "invoice", "ledger", "session", "token", "profile", "avatar", "geo", "route", "parcel",
		"stock", "price", "coupon", "review", "rank", "index", "crawl", "feed", "mail", "push", "audit", "fraud", "score",
		"export", "import", "report", "metric", "trace", "image", "video", "thumb", "chat", "presence", "quota", "limit",
	}
	second = []string{
		"api", "worker", "gateway", "frontend", "backend", "service", "consumer", "producer", "scheduler", "cache", "proxy",
		"sync", "batch", "stream", "store", "manager", "controller", "agent", "relay", "resolver",
	}
	envWords = []string{
		"DATABASE", "REDIS", "KAFKA", "UPSTREAM", "FEATURE", "CACHE", "HTTP", "GRPC", "AUTH", "TRACING", "METRICS", "QUEUE",
		"BUCKET", "REGION", "TENANT", "RETRY", "POOL", "LOG", "SEARCH", "PAYMENT",
	}
	envTails  = []string{"URL", "HOST", "PORT", "TIMEOUT", "ENABLED", "SIZE", "LEVEL", "TOPIC", "NAME", "LIMIT", "ENDPOINT", "PREFIX"}
	sidecars  = []string{"istio-proxy", "log-shipper", "metrics-exporter", "vault-agent", "cloud-sql-proxy"}
	versions  = []string{"1.4.2", "2.0.1", "2.13.7", "3.1.0-rc.4", "2026.02.11", "0.9.31", "5.22.0"}
	languages = []string{"java", "go", "node", "python", "rust", "dotnet"}
)
