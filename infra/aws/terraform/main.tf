# The bucket that datasets are written to, and who may what on it (roles.tf, head.tf).

resource "aws_s3_bucket" "datasets" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "datasets" {
  bucket                  = aws_s3_bucket.datasets.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "datasets" {
  bucket = aws_s3_bucket.datasets.id
  rule {
    object_ownership = "BucketOwnerEnforced" # no access lists
  }
}

resource "aws_s3_bucket_versioning" "datasets" {
  bucket = aws_s3_bucket.datasets.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "datasets" {
  bucket = aws_s3_bucket.datasets.id
  rule {
    bucket_key_enabled = var.kms_key_arn != null
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "datasets" {
  bucket     = aws_s3_bucket.datasets.id
  depends_on = [aws_s3_bucket_versioning.datasets]

  # Heartbeats are overwritten all the time, and removed rows shall be gone for good some day.
  rule {
    id     = "old-versions-go"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.days_until_old_versions_go
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  # The pipeline writes every object with one request; what others begin and leave costs money all the same.
  rule {
    id     = "unfinished-uploads-go"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

data "aws_iam_policy_document" "encrypted_transport_alone" {
  statement {
    sid       = "EncryptedTransportAlone"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.datasets.arn, "${aws_s3_bucket.datasets.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "datasets" {
  bucket     = aws_s3_bucket.datasets.id
  policy     = data.aws_iam_policy_document.encrypted_transport_alone.json
  depends_on = [aws_s3_bucket_public_access_block.datasets]
}
